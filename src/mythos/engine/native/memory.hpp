// Memory on cache-line borders, never initialised, freed with its owner.
#pragma once
#include <cstddef>
#include <cstdlib>
#include <new>
#include <sys/mman.h>
#include <utility>

template <class T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { std::free(data_); }

  void resize(size_t size) {
    std::free(data_);
    constexpr size_t huge = 2 << 20;
    const size_t bytes = size * sizeof(T);
    // Weights lie on huge pages where the system has them: fewer misses of the address cache.
    const size_t border = bytes >= huge ? huge : 64;
    const size_t whole = (bytes + 4160 + border - 1) / border * border;  // reads ahead may pass the end
    data_ = static_cast<T*>(std::aligned_alloc(border, whole));
    if (data_ == nullptr) throw std::bad_alloc();
    if (border == huge) madvise(data_, whole, MADV_HUGEPAGE);
    size_ = size;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  void swap(Buffer& other) { std::swap(data_, other.data_), std::swap(size_, other.size_); }
  T* data_ = nullptr;
  size_t size_ = 0;
};
