#include "cairn/dist/launch.h"

#include <charconv>
#include <cstdlib>
#include <cstring>

#include "cairn/core/error.h"

namespace cairn {
namespace {

constexpr int64_t kPort = 29500, kMostProcesses = 65536;

const char* value_of(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? nullptr : text;
}

// The value of a variable that is set, an integer in [low, high].
int64_t integer(const char* name, int64_t low, int64_t high) {
  const char* text = value_of(name);
  int64_t value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stop != end || value < low || value > high) {
    throw UserError("{}={} is not an integer from {} to {}", name, text, low, high);
  }
  return value;
}

int64_t required(const char* name, int64_t low, int64_t high, const std::string& why) {
  if (value_of(name) == nullptr) throw UserError("{} is not set: {}", name, why);
  return integer(name, low, high);
}

int64_t optional_integer(const char* name, int64_t low, int64_t high, int64_t otherwise) {
  return value_of(name) == nullptr ? otherwise : integer(name, low, high);
}

// The variables of one launcher; null where it has none.
struct Launcher {
  const char *name, *size, *rank, *local_rank, *local_size;
};
constexpr Launcher kLaunchers[] = {
    {"torchrun", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {"mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {"mpirun", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    // Of a step, not of a job: the job's own script carries SLURM_NTASKS as well, and is one process.
    {"srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID", nullptr},
};

// Processes of this machine, 0 if the launcher does not say.
int64_t local_size(const Launcher& launcher, int64_t size) {
  if (launcher.local_size != nullptr && value_of(launcher.local_size) != nullptr) return integer(launcher.local_size, 1, kMostProcesses);
  const bool one_machine = value_of("SLURM_STEP_NUM_NODES") != nullptr && integer("SLURM_STEP_NUM_NODES", 1, kMostProcesses) == 1;
  return one_machine ? size : 0;
}

// Where rank 0 is, for launchers that do not say so.
void find_address(const Launcher& launcher, Rendezvous* r) {
  const char* nodes = value_of("SLURM_STEP_NODELIST");
  if (const char* address = value_of("MASTER_ADDR")) {
    r->address = address;
  } else if (r->local_size == r->size) {
    r->address = "127.0.0.1";
  } else if (nodes != nullptr) {
    r->address = first_host(nodes);
  } else {
    throw UserError(
        "MASTER_ADDR is not set: {} started {} processes on several machines and does not say where rank 0 is; set it for all "
        "of them (Open MPI: mpirun -x MASTER_ADDR=HOST, MPICH: mpirun -genv MASTER_ADDR HOST)",
        launcher.name, r->size);
  }
  // Steps that share a machine meet at ports of their own.
  const int64_t step =
      optional_integer("SLURM_JOB_ID", 0, int64_t{1} << 40, 0) * 7 + optional_integer("SLURM_STEP_ID", 0, int64_t{1} << 40, 0);
  r->port = optional_integer("MASTER_PORT", 1, 65535, nodes != nullptr ? 20000 + step % 20000 : kPort);
}

}  // namespace

bool is_local(const std::string& address) { return address == "localhost" || address == "127.0.0.1" || address == "::1"; }

std::string first_host(const std::string& list) {
  const size_t bracket = list.find('['), comma = list.find(',');
  if (bracket == std::string::npos || comma < bracket) return list.substr(0, comma);
  const size_t close = list.find(']', bracket), number_end = list.find_first_of("-,]", bracket);
  if (close == std::string::npos) throw UserError("SLURM_STEP_NODELIST={} is no host list; set MASTER_ADDR", list);
  const size_t end = list.find(',', close);
  return list.substr(0, bracket) + list.substr(bracket + 1, number_end - bracket - 1) +
         list.substr(close + 1, end == std::string::npos ? end : end - close - 1);
}

std::optional<Rendezvous> rendezvous_from_environment() {
  for (const Launcher& launcher : kLaunchers) {
    if (value_of(launcher.size) == nullptr) continue;
    Rendezvous r;
    r.size = integer(launcher.size, 1, kMostProcesses);
    r.local_rank = optional_integer(launcher.local_rank, 0, kMostProcesses, -1);
    if (r.local_rank < 0 && value_of("SLURM_LOCALID") != nullptr) r.local_rank = integer("SLURM_LOCALID", 0, kMostProcesses);
    if (r.size == 1) return r;
    r.local_size = local_size(launcher, r.size);
    const std::string need = fmt::format("a run of {} processes ({}) needs {} too; {} sets it, or unset {} for one process", r.size,
                                         launcher.size, launcher.rank, launcher.name, launcher.size);
    r.rank = required(launcher.rank, 0, r.size - 1, need);
    if (&launcher == &kLaunchers[0]) {
      const std::string meet =
          fmt::format("a run of {} processes (WORLD_SIZE) needs RANK, MASTER_ADDR and MASTER_PORT; torchrun sets them", r.size);
      if (value_of("MASTER_ADDR") == nullptr) throw UserError("MASTER_ADDR is not set: {}", meet);
      r.address = value_of("MASTER_ADDR");
      r.port = required("MASTER_PORT", 1, 65535, meet);
      const char *agent = value_of("TORCHELASTIC_USE_AGENT_STORE"), *attempt = value_of("TORCHELASTIC_RESTART_COUNT");
      r.store_is_there = agent != nullptr && std::string(agent) == "True";
      if (attempt != nullptr) r.attempt = attempt;
    } else {
      find_address(launcher, &r);
    }
    if (r.local_size == 0 && is_local(r.address)) r.local_size = r.size;
    if (value_of("CAIRN_DIST_TIMEOUT") != nullptr) r.timeout_seconds = static_cast<double>(integer("CAIRN_DIST_TIMEOUT", 1, 86400));
    return r;
  }
  return std::nullopt;
}

}  // namespace cairn
