// Who started this process together with others, and which of them it is: the environment variables of torchrun, mpirun (Open MPI, MPICH
// and its kin) and SLURM's srun, in that order. Private to the room.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace cairn {

struct Rendezvous {
  int64_t rank = 0, size = 1;
  int64_t local_rank = -1;  // among the processes of this machine; -1: not told
  int64_t local_size = 0;   // processes of this machine; 0: not told
  std::string address;      // of rank 0
  int64_t port = 0;
  bool store_is_there = false;   // torchrun keeps the store itself; else rank 0 does
  std::string attempt = "0";     // torchrun starts a run again under the same address
  double timeout_seconds = 300;  // for peers to come, and for each collective
};

// Empty if nobody started several processes. UserError for incomplete or malformed variables.
std::optional<Rendezvous> rendezvous_from_environment();

// True for the names and numbers by which a machine calls itself.
bool is_local(const std::string& address);

// "node[003-005,9]-x,other" -> "node003-x": the first machine of a SLURM host list.
std::string first_host(const std::string& list);

}  // namespace cairn
