// The memory of a NumPy array, through Python's buffer protocol: 0.2 us per array, where an exchange by DLPack takes 1.
#pragma once

#include <nanobind/nanobind.h>

#include <stdexcept>
#include <string_view>

#include "problem.hpp"

// Holds the array until it goes; it must come and go while the GIL is held.
class Buffer {
    Py_buffer view;
    DType type;

    static DType dtype_of(const Py_buffer& view) {
        std::string_view format = view.format ? view.format : "B";
        if (!format.empty() && (format[0] == '@' || format[0] == '=' || format[0] == '^')) format.remove_prefix(1);
        if (format.size() == 1) {
            char kind = format[0];
            auto is = [kind](std::string_view kinds) { return kinds.find(kind) != kinds.npos; };
            bool is_float = is("edf"), is_signed = is("bhilqn"), is_unsigned = is("BHILQN");
            switch (view.itemsize) {
                case 8: if (is_float) return DType::float64; if (is_signed) return DType::int64; if (is_unsigned) return DType::uint64; break;
                case 4: if (is_float) return DType::float32; if (is_signed) return DType::int32; if (is_unsigned) return DType::uint32; break;
                case 2: if (is_float) return DType::float16; if (is_signed) return DType::int16; if (is_unsigned) return DType::uint16; break;
                case 1: if (is_signed) return DType::int8; if (is_unsigned) return DType::uint8; if (kind == '?') return DType::boolean; break;
            }
        }
        throw std::invalid_argument("unsupported dtype");
    }

public:
    enum Access { read, write };

    explicit Buffer(nanobind::handle array, Access access = read) {
        if (PyObject_GetBuffer(array.ptr(), &view, access == write ? PyBUF_RECORDS : PyBUF_RECORDS_RO)) throw nanobind::python_error();
        try {
            type = dtype_of(view);
        } catch (...) {
            PyBuffer_Release(&view);
            throw;
        }
    }
    ~Buffer() { PyBuffer_Release(&view); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    char* data() const { return static_cast<char*>(view.buf); }
    DType dtype() const { return type; }
    int dimensions() const { return view.ndim; }
    bool is_aligned() const {
        std::int64_t all = reinterpret_cast<std::intptr_t>(view.buf);
        for (int i = 0; i < view.ndim; ++i) all |= view.strides[i];
        return all % view.itemsize == 0;
    }
    std::int64_t item_bytes() const { return view.itemsize; }
    std::int64_t size() const { return view.len / view.itemsize; }
    std::int64_t extent(int axis) const { return view.shape[axis]; }
    // In bytes. An axis of one element is stepped over by 0, so that what is the same for all rows (or classes) needs no copy.
    std::int64_t stride(int axis) const { return view.shape[axis] == 1 ? 0 : view.strides[axis]; }
};
