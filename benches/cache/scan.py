"""Takes stock of a hub cache with huggingface_hub: prints the number of repos and the seconds of the call alone."""

import sys
import time

from huggingface_hub import scan_cache_dir

begun = time.perf_counter()
found = scan_cache_dir(sys.argv[1])
seconds = time.perf_counter() - begun
assert not found.warnings, found.warnings[0]
print(f'{{"repos": {len(found.repos)}, "seconds": {seconds}}}')
