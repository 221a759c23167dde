# A user module for MicroPython's ports that are built with make: import digit. Put this folder into
# a folder of modules, and build with USER_C_MODULES=that folder.
SRC_USERMOD_C += $$(USERMOD_DIR)/micropython/moddigit.c
SRC_USERMOD_LIB_C += $micropython_make_sources
CFLAGS_USERMOD += -I$$(USERMOD_DIR)/src
