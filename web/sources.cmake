# The pages, as an object of whoever includes this file: embed.cmake makes C of them.
set(WEB_FILES index.html access.js app.js form.js view.js stream.js texts.js start.js adapters.js code.js style.css icon.svg docs.html docs.js openapi.json)
set(WEB_DIR ${CMAKE_CURRENT_LIST_DIR})
list(TRANSFORM WEB_FILES PREPEND ${WEB_DIR}/ OUTPUT_VARIABLE web_paths)
add_custom_command(
  OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/web_assets.c
  COMMAND ${CMAKE_COMMAND} -DOUT=${CMAKE_CURRENT_BINARY_DIR}/web_assets.c -DDIR=${WEB_DIR}
          "-DFILES=${WEB_FILES}" -P ${WEB_DIR}/embed.cmake
  DEPENDS ${web_paths} ${WEB_DIR}/embed.cmake
  COMMENT "Embedding the pages"
  VERBATIM)
add_library(taca_web STATIC ${CMAKE_CURRENT_BINARY_DIR}/web_assets.c)
target_link_libraries(taca_web PRIVATE taca_flags)
