// version.cpp: versions as the libraries themselves report them at run time.
#include "trainer/cli/version.h"

#include <cblas.h>
#include <hdf5.h>
#ifdef ROOKERY_HAVE_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

#include "kernels/base/str.h"
#include "rookery_build.h"
#include "trainer/loop/environment.h"

namespace rookery::cli {

std::vector<std::pair<std::string, std::string>> component_versions() {
  std::vector<std::pair<std::string, std::string>> parts;
  parts.emplace_back("compiler", ROOKERY_BUILD_COMPILER);
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  parts.emplace_back("HDF5", str(major, ".", minor, ".", release));
  parts.emplace_back("BLAS", openblas_get_config());
#ifdef ROOKERY_HAVE_ONEDNN
  const dnnl_version_t* dnnl = dnnl_version();
  parts.emplace_back("oneDNN", str(dnnl->major, ".", dnnl->minor, ".", dnnl->patch));
#else
  parts.emplace_back("oneDNN", "not built in");
#endif
  parts.emplace_back("yaml-cpp", ROOKERY_BUILD_YAML_CPP);
  return parts;
}

std::string instruction_sets() {
  std::string found;
  for (const std::string& set : loop::this_machine().instruction_sets)
    found += (found.empty() ? "" : " ") + set;
  return found.empty() ? "portable only" : found;
}

std::string program_version() { return ROOKERY_BUILD_VERSION; }
std::string source_revision() { return ROOKERY_BUILD_REVISION; }

std::string version_text() {
  std::string text = str("rookery ", program_version(), "\n", "revision: ", source_revision(), "\n");
  for (const auto& [name, version] : component_versions()) text += str(name, ": ", version, "\n");
  text += str("CPU instruction sets: ", instruction_sets(), "\n");
  return text;
}

}  // namespace rookery::cli
