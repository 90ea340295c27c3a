/* std::sync::Mutex, the part that waits, with the meaning that std gives it (0 free, 1 locked, 2 locked and maybe waited
 * for). The one in std is compiled without ThreadSanitizer, which therefore does not see that the waiter got the lock and
 * reports every lock that was fought for as missing. tsan.sh puts this in its place, under the name LOCK_CONTENDED. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

void LOCK_CONTENDED(uint32_t *word);
void LOCK_CONTENDED(uint32_t *word)
{
    while (__atomic_exchange_n(word, 2, __ATOMIC_ACQUIRE) != 0)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 2, NULL);
}
