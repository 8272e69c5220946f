// The modes of an optimizer's step on mapped parameters.
#pragma once

namespace fastmap {

// How the gradient in theta becomes one in z: by the derivative dtheta/dz; as it is (mirror descent); or by the
// derivative held inside [clamp_low, clamp_high].
enum class Gradient { chain, dual, clamped };
// What weight decay shrinks.
enum class Decay { none, z, theta };

}  // namespace fastmap
