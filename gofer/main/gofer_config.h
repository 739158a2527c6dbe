// The gofer's own side of the control socket.
#pragma once

#include "gofer/main/gofer_main.h"

namespace skep::gofer {

Result<GoferConfig> ReceiveConfig(int control);
Result<void> SendReport(int control, const JailReport& report);

}  // namespace skep::gofer
