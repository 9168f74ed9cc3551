// The part of XLA's foreign function interface (its C API, version 0.3) that a handler of buffers needs, declared here so that
// the build needs no jaxlib. Every structure begins with its size, and grows at its end alone while the major version stays.
// Source: xla/ffi/api/c_api.h, https://github.com/openxla/xla
#pragma once

#include <cstddef>
#include <cstdint>

namespace xla_ffi {

constexpr std::int32_t major_version = 0, minor_version = 3;

enum class DataType : std::int32_t {
    pred = 1, s8 = 2, s16 = 3, s32 = 4, s64 = 5, u8 = 6, u16 = 7, u32 = 8, u64 = 9, f16 = 10, f32 = 11, f64 = 12, bf16 = 16
};
enum class AttributeType : std::int32_t { array = 1, dictionary = 2, scalar = 3, string = 4 };
constexpr std::int32_t buffer_type = 1;  // of an argument, of a result
constexpr std::int32_t execute_stage = 3;
constexpr std::int32_t metadata_extension = 1;
constexpr std::int32_t invalid_argument = 3, resource_exhausted = 8;  // codes of errors

struct Extension {
    std::size_t size;
    std::int32_t type;
    Extension* next;
};

struct Version {
    std::size_t size;
    Extension* extensions;
    std::int32_t major, minor;
};

struct Metadata {  // asked for when the handler is registered
    std::size_t size;
    Version version;
    std::uint32_t traits;
};
struct MetadataExtension {
    Extension base;
    Metadata* metadata;
};

struct Error;
struct ErrorDescription {
    std::size_t size;
    Extension* extensions;
    const char* message;
    std::int32_t code;
};
struct Api {
    std::size_t size;
    Extension* extensions;
    Version version;
    const void* internal;
    Error* (*create_error)(ErrorDescription*);
};

struct Buffer {
    std::size_t size;
    Extension* extensions;
    DataType dtype;
    void* data;
    std::int64_t rank;
    std::int64_t* extents;
};

struct Text {
    const char* data;
    std::size_t length;
};
struct Scalar {
    DataType dtype;
    void* value;
};

struct Buffers {  // arguments, or results
    std::size_t size;
    Extension* extensions;
    std::int64_t count;
    std::int32_t* types;
    void** entries;
};
struct Attributes {
    std::size_t size;
    Extension* extensions;
    std::int64_t count;
    AttributeType* types;
    Text** names;
    void** values;
};

struct CallFrame {
    std::size_t size;
    Extension* extensions;
    const Api* api;
    void* context;
    std::int32_t stage;
    Buffers arguments, results;
    Attributes attributes;
};

}  // namespace xla_ffi
