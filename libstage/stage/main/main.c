#include "libstage/include/stage.h"

extern const struct qp_stage_desc qp_stage_desc;

int main(int argc, char **argv)
{
    return qp_stage_main(&qp_stage_desc, argc, argv);
}
