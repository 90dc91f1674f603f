// Draws what `cairn bench ops --device cuda --csv FILE.csv` measured, as its --picture does: bench_ops_picture OUT.svg FILE.csv.
#include "cairn/report/ops_picture.h"

#include <fmt/format.h>

#include "cairn/core/error.h"
#include "cairn/core/files.h"

int main(int argc, char** argv) {
  try {
    if (argc != 3) throw cairn::UserError("usage: bench_ops_picture OUT.svg FILE.csv");
    cairn::write_file(argv[1], cairn::report::draw_ops_picture(cairn::read_file(argv[2]), argv[2]));
    return 0;
  } catch (const cairn::Error& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return error.exit_code();
  }
}
