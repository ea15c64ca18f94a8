/* faulty_disk.h - a disk for SQLite that can be made to fail: the Nth operation, once or for ever,
 * or the power.
 *
 * A VFS around the default one. It counts writes, truncations and flushes of all files, and keeps
 * what each write since the last flush has replaced, so that a power cut can take any of them
 * back. */
#ifndef TACA_TESTS_FAULTY_DISK_H
#define TACA_TESTS_FAULTY_DISK_H

#include <stdbool.h>
#include <stdint.h>

void faulty_disk_install(void); /* the default VFS from now on */

/* The nth operation from now (1 = the next) fails with this code of SQLite, and with `for_ever` all
 * after it. 0 = none does. */
void faulty_disk_fail(int nth, int code, bool for_ever);
int faulty_disk_count(void); /* operations since the last faulty_disk_fail */

/* The nth operation from now is the last that reaches the disk; those before it that were not
 * flushed are lost or kept by the bits of `luck`. All later ones fail. 0 = none. */
void faulty_disk_cut(int nth, uint64_t luck);
/* It says that it has flushed, and has not. */
void faulty_disk_lie(bool on);
bool faulty_disk_is_dark(void);
/* Once every file is closed: what was not flushed leaves the disk. The power is back. */
void faulty_disk_after_cut(void);

#endif
