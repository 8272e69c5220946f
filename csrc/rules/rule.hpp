// What an update rule must have. A rule is one struct in one header.
//
//   moments                           how many arrays beside z it keeps
//   prepare<T>(const RuleArgs&)       constants of one step
//   update<T>(g, z, m, v, constants)  the new z; m and v, the moments, change in place
#pragma once

#include "engine/abi.hpp"
#include "math/ops.hpp"
