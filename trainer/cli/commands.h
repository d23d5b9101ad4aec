// commands.h: every sub-command, by the function that describes it. Add one: declare it here, list it in
// commands.cpp.
#pragma once

#include "trainer/cli/command.h"

namespace rookery::cli {

Command rookery_command();  // the root: all sub-commands below it

Command bench_command();
Command bench_comm_command();
Command bench_load_command();
Command bench_op_command();
Command bench_prompt_command();
Command bench_report_command();
Command bench_step_command();
Command ckpt_command();
Command ckpt_convert_command();
Command compare_command();
Command config_command();
Command data_command();
Command data_mqar_command();  // of `data`
Command doctor_command();
Command eval_command();
Command generate_command();
Command help_command();
Command plan_command();
Command plot_command();
Command tokenizer_command();
Command train_command();

}  // namespace rookery::cli
