#include "kernels/base/fault.h"
