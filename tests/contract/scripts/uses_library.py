"""A user's script whose `WiseRL` object lives in a module beside it."""

import sys

from library import Adder, wise_rl

if __name__ == "__main__":
    wise_rl.start_all_runners(wise_rl.make_runner("adder", Adder, sys.argv[1], num=int(sys.argv[2])))
