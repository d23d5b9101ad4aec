#include "kernels/base/io.h"
