"""The engine's pass in C++ for processors with AVX-512 VNNI: the same served weights, built where it runs."""
