"""Speed and score measurements of wiserl beside other libraries; see `benchmarks.speed` and `benchmarks.scores`."""
