# embed.cmake - files as C arrays, so that the program carries its own pages.
#
#   cmake -DOUT=assets.c -DDIR=folder "-DFILES=a.html;b.js" -P embed.cmake
#
# Writes the table that web/assets.h declares; the tag is the hash of the bytes.
set(types_html "text/html; charset=utf-8")
set(types_js "text/javascript; charset=utf-8")
set(types_css "text/css; charset=utf-8")
set(types_svg "image/svg+xml")
set(types_json "application/json")
set(arrays "")
set(table "")
set(k 0)
foreach(file IN LISTS FILES)
  file(READ ${DIR}/${file} hex HEX)
  file(SHA256 ${DIR}/${file} hash)
  string(SUBSTRING ${hash} 0 20 tag)
  string(LENGTH "${hex}" digits)
  math(EXPR bytes "${digits} / 2")
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
  string(REGEX MATCH "[a-z]+$" suffix ${file})
  string(APPEND arrays "static const unsigned char bytes_${k}[] = {${hex}};\n")
  string(APPEND table
         "    {\"${file}\", \"${types_${suffix}}\", \"\\\"${tag}\\\"\", bytes_${k}, ${bytes}},\n")
  math(EXPR k "${k} + 1")
endforeach()
file(WRITE ${OUT}.new "/* Made by web/embed.cmake. */
#include \"web/assets.h\"

${arrays}
const struct web_asset web_assets[] = {
${table}    {0}};
")
file(RENAME ${OUT}.new ${OUT})
