"""The exported C folder as a package: Arduino, PlatformIO, CMake and MicroPython."""

import json
import re
import shutil
import subprocess

import pytest
import torch

from featherweight.data import load_split
from featherweight.export.c import SOURCES, export_c
from featherweight.export.firmware import ARM_COMPILER, CHIPS, SOURCE
from featherweight.run import create_run
from featherweight.train import train

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="no C++ compiler"),
]
# Sources of the module for MicroPython.
MODULE = ("micropython/moddigit.c", SOURCE, "src/prepare.c")
SKETCH = "examples/ReadDigit/ReadDigit.ino"
# What the sketch needs of Arduino's core. Its clock goes on by 1,000 microseconds a call.
ARDUINO = """
#include <stdint.h>
unsigned long micros(void);
void delay(unsigned long milliseconds);
struct Port {
    void begin(unsigned long baud);
    void print(const char *text);
    void print(int number);
    void print(long number);
    void print(unsigned long number);
    void println(const char *text);
};
extern Port Serial;
"""
COMPUTER = """
#include <stdio.h>
void setup(void);
void loop(void);
Port Serial;
unsigned long micros(void) { static unsigned long now; return now += 1000; }
void delay(unsigned long) {}
void Port::begin(unsigned long) {}
void Port::print(const char *text) { printf("%s", text); }
void Port::print(int number) { printf("%d", number); }
void Port::print(long number) { printf("%ld", number); }
void Port::print(unsigned long number) { printf("%lu", number); }
void Port::println(const char *text) { printf("%s\\n", text); }
int main() { setup(); loop(); return 0; }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_recipe, tiny_contract, digits):
    """An export in 4 bits of a tiny network."""
    path = str(tmp_path_factory.mktemp("packages") / "run")
    split, cpu = load_split(str(digits), 500, 100), torch.device("cpu")
    run = create_run(path, tiny_recipe, tiny_contract, split, 0, cpu, "")
    train(run, split, cpu)
    return export_c(run, split, 4).path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def call(*command, cwd=None):
    """Run a command; return its exit code and everything that it wrote."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_no_template_is_left_unfilled(folder):
    for name in (*SOURCES, "examples/ReadDigit/example.h", "README.md"):
        text = (folder / name).read_text()
        if not name.endswith((".cmake", ".mk")) and name not in ("Makefile", "CMakeLists.txt"):
            assert "$" not in text, name
        assert "$$" not in text, name


def test_arduino_knows_the_library(folder):
    lines = (folder / "library.properties").read_text().splitlines()
    values = dict(line.split("=", 1) for line in lines)
    assert re.fullmatch(r"[A-Za-z0-9][\w .-]*", values["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", values["version"])
    assert {"author", "maintainer", "sentence", "paragraph"} < set(values)
    assert values["category"] == "Data Processing"
    assert "avr" not in values["architectures"].split(",")  # an int has 16 bits there
    assert values["includes"] == "digit.h,prepare.h"
    # All of src is compiled into every sketch, so it has no main.
    names = {"digit.h", "digit.c", "prepare.h", "prepare.c"}
    assert {path.name for path in (folder / "src").iterdir()} == names


def test_platformio_knows_the_library(folder):
    values = json.loads((folder / "library.json").read_text())
    assert re.fullmatch(r"[a-z0-9-]+", values["name"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", values["version"])
    assert (folder / values["build"]["srcDir"] / values["headers"]).is_file()
    assert values["frameworks"] == values["platforms"] == "*"


def build_sketch(folder, work):
    """Compile the sketch for this computer with a stand-in for Arduino's core; return the program.

    As the Arduino IDE does, the sketch is compiled as C++ with Arduino.h before its first line.
    """
    (work / "Arduino.h").write_text(ARDUINO)
    (work / "computer.cpp").write_text(COMPUTER)
    flags = ("-Wall", "-Wextra", "-Werror", "-I.", f"-I{folder / 'src'}")
    code, said = call("cc", *flags, "-c", folder / SOURCE, "-o", work / "digit.o")
    assert code == 0, said
    sketch = ("-include", "Arduino.h", "-x", "c++", folder / SKETCH, work / "computer.cpp")
    code, said = call(
        "g++", *flags, "-xnone", work / "digit.o", *sketch, "-o", work / "sketch", cwd=work
    )
    assert code == 0, said
    return work / "sketch"


def test_the_sketch_reads_the_example(copy, tmp_path):
    label, scores = (copy / "example.txt").read_text().splitlines()[0].split(" ", 1)
    said = f"class {label}, scores {scores}, as expected, in 1000 microseconds\n"
    assert call(build_sketch(copy, tmp_path)) == (0, said)
    example = copy / "examples" / "ReadDigit" / "example.h"
    first = scores.split()[0]
    example.write_text(example.read_text().replace(f" {first},", f" {int(first) + 1},"))
    said = f"class {label}, scores {scores}, NOT as expected, in 1000 microseconds\n"
    assert call(build_sketch(copy, tmp_path)) == (0, said)


@pytest.mark.skipif(not shutil.which(ARM_COMPILER), reason="no ARM compiler")
@pytest.mark.parametrize("chip", ["m0", "m4"])
def test_the_sketch_compiles_for_a_cortex_m(folder, tmp_path, chip):
    (tmp_path / "Arduino.h").write_text(ARDUINO)
    flags = ("-Os", "-Wall", "-Wextra", "-Werror", *CHIPS[chip].flags, f"-I{folder / 'src'}")
    sketch = ("-I.", "-include", "Arduino.h", "-x", "c++", "-c", folder / SKETCH)
    compiler = ARM_COMPILER.replace("gcc", "g++")
    assert call(compiler, *flags, *sketch, "-o", "sketch.o", cwd=tmp_path) == (0, "")
    sections = call(ARM_COMPILER.replace("gcc", "size"), "-A", tmp_path / "sketch.o")[1]
    sizes = dict(re.findall(r"^\.(\w+)\s+(\d+)", sections, re.MULTILINE))
    assert sizes["data"] == sizes["bss"] == "0"  # the image stays in flash


@pytest.mark.skipif(not shutil.which("cmake"), reason="no CMake")
def test_cmake_builds_and_tests_the_folder(copy, tmp_path):
    code, said = call("cmake", "-S", copy, "-B", tmp_path / "build")
    assert code == 0, said
    code, said = call("cmake", "--build", tmp_path / "build")
    assert code == 0, said
    assert call("ctest", cwd=tmp_path / "build")[0] == 0
    (copy / "example.txt").write_text("3 0 0\n")
    assert call("ctest", cwd=tmp_path / "build")[0] != 0


@pytest.mark.skipif(not shutil.which("cmake"), reason="no CMake")
def test_cmake_adds_the_folder_to_a_project(copy, tmp_path):
    """The project gets the library alone; MicroPython's modules are found as it looks for them."""
    (tmp_path / "main.c").write_text(
        '#include "digit.h"\n'
        "static const uint8_t image[DIGIT_HEIGHT * DIGIT_WIDTH];\n"
        "int main(void)\n{\n    int32_t scores[DIGIT_CLASSES];\n"
        "    return digit_read(image, scores) < 0;\n}\n"
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.10)\n"
        "project(user LANGUAGES C)\n"
        "add_subdirectory(copy)\n"
        "add_executable(user main.c)\n"
        "target_link_libraries(user PRIVATE digit::digit)\n"
        "if(TARGET digit_main)\n"
        "  message(FATAL_ERROR digit_main)\n"
        "endif()\n"
        "add_library(usermod INTERFACE)\n"
        "include(copy/micropython.cmake)\n"
        "get_target_property(libraries usermod INTERFACE_LINK_LIBRARIES)\n"
        "get_target_property(sources ${libraries} INTERFACE_SOURCES)\n"
        "get_target_property(folders ${libraries} INTERFACE_INCLUDE_DIRECTORIES)\n"
        'message("found: ${sources};${folders}")\n'
    )
    code, said = call("cmake", "-S", tmp_path, "-B", tmp_path / "build")
    assert code == 0, said
    found = re.search("found: (.*)", said)[1].split(";")
    assert found == [str(copy / name) for name in (*MODULE, "src")]
    code, said = call("cmake", "--build", tmp_path / "build")
    assert code == 0, said
    assert call(tmp_path / "build" / "user") == (0, "")


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
def test_make_finds_the_module_for_micropython(folder, tmp_path):
    (tmp_path / "Makefile").write_text(
        f"USERMOD_DIR := {folder}\ninclude $(USERMOD_DIR)/micropython.mk\n"
        "show:\n\t@echo $(SRC_USERMOD_C) $(SRC_USERMOD_LIB_C) $(CFLAGS_USERMOD)\n"
    )
    code, said = call("make", "-s", "show", cwd=tmp_path)
    paths = [folder / name for name in MODULE]
    assert all(path.is_file() for path in paths)
    assert (code, said.split()) == (0, [*map(str, paths), f"-I{folder / 'src'}"])


@pytest.mark.skipif(not shutil.which("clang"), reason="no clang")
def test_a_processor_of_16_bits_is_refused(folder):
    check = ("clang", "-std=c99", "-ffreestanding", "-fsyntax-only", folder / SOURCE)
    code, said = call(*check, "--target=msp430")
    assert code != 0
    assert "int_has_at_least_32_bits" in said
    assert call(*check, "--target=riscv32") == (0, "")
