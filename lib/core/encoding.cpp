#include "core/encoding.hpp"

#include "base/ascii.hpp"

#include <iconv.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <memory>
#include <stdexcept>

namespace cwsandbox::core {

namespace {

struct Alias {
  std::string_view name;  // letters in lower case and digits only
  const char* iconv_name;
};

/// Names of Python's standard encodings, and their aliases, that iconv knows under another one. Not mac_iceland: MAC-IS is a table
/// of its own.
constexpr Alias kAliases[] = {
    {"646", "ASCII"},
    {"ansix341968", "ASCII"},
    {"ansix341986", "ASCII"},
    {"iso646irv1991", "ASCII"},
    {"8859", "ISO-8859-1"},
    {"iso8859", "ISO-8859-1"},
    {"iso885911987", "ISO-8859-1"},
    {"latin", "ISO-8859-1"},
    {"iso885921987", "ISO-8859-2"},
    {"iso885931988", "ISO-8859-3"},
    {"iso885941988", "ISO-8859-4"},
    {"iso885951988", "ISO-8859-5"},
    {"iso885961987", "ISO-8859-6"},
    {"iso885971987", "ISO-8859-7"},
    {"iso885981988", "ISO-8859-8"},
    {"iso885991989", "ISO-8859-9"},
    {"iso8859101992", "ISO-8859-10"},
    {"iso8859112001", "ISO-8859-11"},
    {"thai", "ISO-8859-11"},
    {"iso8859141998", "ISO-8859-14"},
    {"l9", "ISO-8859-15"},
    {"iso8859162001", "ISO-8859-16"},
    {"ibm039", "CP037"},
    {"cp866u", "CP1125"},
    {"ibm1125", "CP1125"},
    {"cpis", "CP861"},
    {"csibm858", "CP858"},
    {"csibm861", "CP861"},
    {"cp1051", "HP-ROMAN8"},
    {"ibm1051", "HP-ROMAN8"},
    {"mskanji", "CP932"},
    {"ms949", "CP949"},
    {"ms950", "CP950"},
    {"big5tw", "BIG5"},
    {"csbig5", "BIG5"},
    {"hkscs", "BIG5-HKSCS"},
    {"chinese", "GB2312"},
    {"csiso58gb231280", "GB2312"},
    {"eucgb2312cn", "GB2312"},
    {"gb23121980", "GB2312"},
    {"gb231280", "GB2312"},
    {"isoir58", "GB2312"},
    {"gb180302000", "GB18030"},
    {"korean", "EUC-KR"},
    {"ksc5601", "EUC-KR"},
    {"ksc56011987", "EUC-KR"},
    {"ksx1001", "EUC-KR"},
    {"ms1361", "JOHAB"},
    {"shiftjis", "SHIFT_JIS"},
    {"shiftjisx0213", "SHIFT_JISX0213"},
    {"sjisx0213", "SHIFT_JISX0213"},
    {"eucjisx0213", "EUC-JISX0213"},
    {"tis6200", "TIS-620"},
    {"tis62025290", "TIS-620"},
    {"tis62025291", "TIS-620"},
    {"ptcp154", "PT154"},
    {"csptcp154", "PT154"},
    {"cp154", "PT154"},
    {"cyrillicasian", "PT154"},
    {"kz1048", "RK1048"},
    {"maclatin2", "MAC-CENTRALEUROPE"},
    {"maccenteuro", "MAC-CENTRALEUROPE"},
    {"maccentraleurope", "MAC-CENTRALEUROPE"},
    {"macroman", "MACINTOSH"},
    {"cp65001", "UTF-8"},
    {"u8", "UTF-8"},
    {"utf", "UTF-8"},
    {"utf8ucs2", "UTF-8"},
    {"utf8ucs4", "UTF-8"},
    {"u16", "UTF-16"},
    {"unicodebigunmarked", "UTF-16BE"},
    {"unicodelittleunmarked", "UTF-16LE"},
    {"u32", "UTF-32"},
    {"u7", "UTF-7"},
    {"unicode11utf7", "UTF-7"},
};

/// The name as `kAliases` has it: whatever stands between letters and digits says nothing.
std::string plain_name(std::string_view name) {
  std::string plain;
  for (const char c : name)
    if (base::is_letter_or_digit(c)) plain += base::to_lower(c);
  return plain;
}

/// iconv's handle for a name as users write it: Python says "latin-1" and "utf-16-le" where iconv says LATIN1 and UTF-16LE.
iconv_t open_encoding(const std::string& name) {
  const auto failed = reinterpret_cast<iconv_t>(-1);
  // iconv takes what follows a slash as orders ("//TRANSLIT" would replace characters silently).
  if (name.empty() || name.find('/') != std::string::npos) return failed;
  std::string dashes = name, joined, last_joined;
  std::replace(dashes.begin(), dashes.end(), '_', '-');
  std::remove_copy(dashes.begin(), dashes.end(), std::back_inserter(joined), '-');
  last_joined = dashes;
  if (const auto last = last_joined.rfind('-'); last != std::string::npos) last_joined.erase(last, 1);
  if (joined.empty()) return failed;  // for iconv that is the locale's encoding
  for (const auto& candidate : {name, dashes, last_joined, joined})
    if (const iconv_t handle = iconv_open(candidate.c_str(), "UTF-8"); handle != failed) return handle;
  const std::string plain = plain_name(name);
  for (const auto& alias : kAliases)
    if (alias.name == plain) return iconv_open(alias.iconv_name, "UTF-8");
  // "1252" and the like are code pages.
  if (!plain.empty() && plain.find_first_not_of("0123456789") == std::string::npos)
    return iconv_open(("CP" + plain).c_str(), "UTF-8");
  return failed;
}

}  // namespace

std::string encode(std::string_view text, const std::string& encoding) {
  const auto close = [](void* handle) { iconv_close(handle); };
  // UTF-8 behind a byte order mark, which every call writes, as Python's encode() does.
  const bool with_mark = plain_name(encoding) == "utf8sig";
  std::unique_ptr<void, decltype(close)> converter(open_encoding(with_mark ? "UTF-8" : encoding), close);
  if (converter.get() == reinterpret_cast<iconv_t>(-1)) {
    converter.release();
    throw std::invalid_argument("unknown encoding '" + encoding + "'");
  }
  std::string out = with_mark ? "\xEF\xBB\xBF" : "";
  std::string input(text);  // iconv takes no const
  char* from = input.data();
  std::size_t left = input.size();
  char block[4096];
  bool flushing = false;
  for (;;) {
    char* to = block;
    std::size_t room = sizeof block;
    const std::size_t done =
        flushing ? iconv(converter.get(), nullptr, nullptr, &to, &room) : iconv(converter.get(), &from, &left, &to, &room);
    out.append(block, static_cast<std::size_t>(to - block));
    if (done != static_cast<std::size_t>(-1)) {
      // Characters that were replaced: the text is not what the caller gave.
      if (!flushing && done > 0) throw std::invalid_argument("the text holds a character that '" + encoding + "' does not have");
      if (flushing) return out;
      flushing = true;
    } else if (errno != E2BIG) {
      throw std::invalid_argument("cannot write the text in '" + encoding + "': the character at byte " +
                                  std::to_string(input.size() - left) +
                                  (errno == EINVAL ? " is cut off" : " is not UTF-8, or has no place in it"));
    }
  }
}

}  // namespace cwsandbox::core
