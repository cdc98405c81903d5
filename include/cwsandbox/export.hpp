/// \file
/// Symbol visibility: everything is hidden unless it is marked.
#pragma once

#define CWSANDBOX_EXPORT __attribute__((visibility("default")))
