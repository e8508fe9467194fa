"""Nothing acknowledged is lost: real processes are killed and disks made to fail while objects come in, then everything is checked."""
