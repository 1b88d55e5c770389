/* A row after the other; left to the compiler to make vectors of. Include it in an unnamed namespace. */

inline Digest digest_row(const char* row, int64_t bytes) {
  Digest sum;
  const int64_t words = bytes / 8;
  for (int64_t place = 0; place < words; ++place) {
    uint64_t word;
    __builtin_memcpy(&word, row + 8 * place, 8);
    sum.add(word, uint64_t(place));
  }
  if (bytes % 8) sum.add(word_at(row + 8 * words, bytes % 8), uint64_t(words));
  return sum;
}

inline void digest_each(const char* data, int64_t rows, int64_t row_bytes, int64_t row_stride, uint64_t* digests) {
  for (int64_t row = 0; row < rows; ++row) {
    const Digest found = digest_row(data + row * row_stride, row_bytes);
    digests[2 * row] += found.low;
    digests[2 * row + 1] += found.high;
  }
}
