// The floating-point environment of a thread (rounding, denormal numbers), for as long as this lives.
#pragma once

#include <cfenv>

class Environment {
    std::fenv_t before;

public:
    explicit Environment(const std::fenv_t* environment) {
        std::fegetenv(&before);
        std::fesetenv(environment);
    }
    ~Environment() { std::fesetenv(&before); }
    Environment(const Environment&) = delete;
    Environment& operator=(const Environment&) = delete;
};
