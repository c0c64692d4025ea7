// bpg: the command line of BetterPG.
#include "cli/app.h"

int main(int argc, char** argv) {
    return bpg::cli::run(std::vector<std::string>(argv + 1, argv + argc));
}
