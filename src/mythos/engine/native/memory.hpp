// Memory on cache-line borders, never initialised, freed with its owner.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <sys/mman.h>
#include <utility>
#include <vector>

// Large memory that is given out piece by piece and freed as a whole. It lies on huge pages where the system has
// them: weights are read from end to end in each pass, and small pages cost a fifth of the speed.
class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  ~Arena() {
    for (void* block : blocks_) std::free(block);
  }

  void* take(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > left_) {
      constexpr size_t huge = 2 << 20, usual = 16 * huge;
      const size_t whole = ((bytes > usual ? bytes : usual) + SPARE + huge - 1) / huge * huge;
      void* block = std::aligned_alloc(huge, whole);
      if (block == nullptr) throw std::bad_alloc();
      madvise(block, whole, MADV_HUGEPAGE);
      blocks_.push_back(block);
      next_ = static_cast<uint8_t*>(block), left_ = whole - SPARE;
    }
    void* piece = next_;
    next_ += bytes, left_ -= bytes;
    return piece;
  }

 private:
  static constexpr size_t SPARE = 1 << 16;  // what is fetched ahead may lie behind the end
  std::vector<void*> blocks_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
};

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
    data_ = static_cast<T*>(std::aligned_alloc(64, (size * sizeof(T) + 127) / 64 * 64));
    if (data_ == nullptr) throw std::bad_alloc();
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
