// commands.cpp: the list of sub-commands, in the order of the help page.
#include "trainer/cli/commands.h"

namespace rookery::cli {

Command rookery_command() {
  Command root;
  root.name = "rookery";
  root.summary = "train RWKV language models, from raw text to generated text";
  root.examples = {{"rookery train configs/quickstart.yaml optim.lr=1e-3"}};
  root.children = {
      tokenizer_command(), data_command(),     config_command(), plan_command(), train_command(),
      eval_command(),      generate_command(), ckpt_command(),   plot_command(), compare_command(),
      bench_command(),     doctor_command(),   help_command(),
  };
  return root;
}

}  // namespace rookery::cli
