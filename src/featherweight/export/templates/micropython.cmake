# A user module for MicroPython's ports that are built with CMake: import digit. Build with
# USER_C_MODULES=the path of this file.
add_library(usermod_digit INTERFACE)
target_sources(usermod_digit INTERFACE
  $${CMAKE_CURRENT_LIST_DIR}/micropython/moddigit.c$micropython_sources)
target_include_directories(usermod_digit INTERFACE $${CMAKE_CURRENT_LIST_DIR}/src)
target_link_libraries(usermod INTERFACE usermod_digit)
