"""Conan 2 recipe. From the top of the tree: `conan create packaging/conan --build=missing`."""
import os
import re

from conan import ConanFile
from conan.errors import ConanInvalidConfiguration
from conan.tools.build import check_min_cppstd
from conan.tools.files import copy, load, rmdir
from conan.tools.gnu import PkgConfigDeps
from conan.tools.layout import basic_layout
from conan.tools.meson import Meson, MesonToolchain
from conan.tools.scm import Version

required_conan_version = ">=2.0"


class CwsandboxConan(ConanFile):
    name = "cwsandbox"
    description = "Coroutine-native client for code-execution sandboxes"
    license = "Apache-2.0"
    topics = ("sandbox", "asio", "coroutines")
    package_type = "library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"shared": [True, False], "fPIC": [True, False], "gateway": [True, False], "kubernetes": [True, False]}
    default_options = {"shared": False, "fPIC": True, "gateway": True, "kubernetes": False}

    @property
    def _top(self):
        return os.path.join(self.recipe_folder, "..", "..")

    def set_version(self):
        # meson.build is where the version stands.
        self.version = re.search(r"version: '([^']+)'", load(self, os.path.join(self._top, "meson.build"))).group(1)

    def export_sources(self):
        for pattern in ("meson.build", "meson_options.txt", "LICENSE", "include/*", "lib/*", "packaging/cmake/*"):
            copy(self, pattern, self._top, self.export_sources_folder)

    def configure(self):
        if self.options.shared:
            self.options.rm_safe("fPIC")
        if not self.options.gateway:
            self.options.rm_safe("kubernetes")

    def layout(self):
        basic_layout(self)

    def requirements(self):
        # Asio's types are part of the interface.
        self.requires("boost/[>=1.81 <2]", transitive_headers=True)
        self.requires("openssl/[>=3 <4]")
        self.requires("nlohmann_json/[>=3.10 <4]")
        self.requires("protozero/[>=1.7 <2]")
        if self.options.gateway:
            self.requires("libseccomp/[>=2.5 <3]")
        if self.options.get_safe("kubernetes"):
            self.requires("yaml-cpp/[>=0.7 <1]")

    def build_requirements(self):
        self.tool_requires("meson/[>=1.0 <2]")
        if not self.conf.get("tools.gnu:pkg_config", default=False, check_type=str):
            self.tool_requires("pkgconf/[>=2 <3]")

    def validate(self):
        if self.settings.os != "Linux":
            raise ConanInvalidConfiguration("cwsandbox is for Linux")
        if self.settings.compiler.get_safe("cppstd"):
            check_min_cppstd(self, 20)
        oldest = {"gcc": "12", "clang": "16"}.get(str(self.settings.compiler))
        if oldest and Version(self.settings.compiler.version) < oldest:
            raise ConanInvalidConfiguration(f"cwsandbox needs {self.settings.compiler} {oldest}")

    def generate(self):
        PkgConfigDeps(self).generate()
        toolchain = MesonToolchain(self)
        toolchain.project_options["gateway"] = bool(self.options.gateway)
        toolchain.project_options["kubernetes"] = "enabled" if self.options.get_safe("kubernetes") else "disabled"
        for left_out in ("tools", "tests", "bench", "examples"):
            toolchain.project_options[left_out] = False
        toolchain.generate()

    def build(self):
        meson = Meson(self)
        meson.configure()
        meson.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        Meson(self).install()
        # Conan writes its own.
        rmdir(self, os.path.join(self.package_folder, "lib", "pkgconfig"))
        rmdir(self, os.path.join(self.package_folder, "lib", "cmake"))

    def package_info(self):
        self.cpp_info.libs = ["cwsandbox"]
        self.cpp_info.set_property("cmake_file_name", "cwsandbox")
        self.cpp_info.set_property("cmake_target_name", "cwsandbox::cwsandbox")
        self.cpp_info.set_property("pkg_config_name", "cwsandbox")
        self.cpp_info.requires = ["boost::headers", "boost::url", "openssl::openssl", "nlohmann_json::nlohmann_json", "protozero::protozero"]
        if self.options.gateway:
            self.cpp_info.requires.append("libseccomp::libseccomp")
        if self.options.get_safe("kubernetes"):
            self.cpp_info.requires.append("yaml-cpp::yaml-cpp")
        self.cpp_info.system_libs = ["pthread"]
