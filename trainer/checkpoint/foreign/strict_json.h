// strict_json.h: JSON that others wrote: no duplicate keys, bounded depth and number of values, valid UTF-8.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace rookery::foreign {

// Errors: kData `id`, with `place` and the byte at which the text stops to be such JSON.
nlohmann::ordered_json parse_strict_json(std::string_view text, std::string_view id,
                                         const std::string& place);

}  // namespace rookery::foreign
