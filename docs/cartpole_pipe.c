/* An exported CartPole policy at work behind a pipe: one observation a line in, one action a line out.

   pd-jax export --run runs/cartpole --format c --precision float32 int8 --out exports/cartpole
   cc -O2 -I exports/cartpole docs/cartpole_pipe.c -lm -o cartpole
   echo "0.01 0.0 0.02 0.0" | ./cartpole

   -DPOLICY_INT8 takes the policy in integers. */
#include <stdio.h>

#ifdef POLICY_INT8
#include "cartpole_int8.h"
#define DECIDE cartpole_int8_act
#else
#include "cartpole.h"
#define DECIDE cartpole_act
#endif

int main(void)
{
  float x[4], outputs[2];
  while (scanf("%f %f %f %f", &x[0], &x[1], &x[2], &x[3]) == 4) {
    printf("%d\n", DECIDE(x, outputs));
    fflush(stdout);
  }
  return 0;
}
