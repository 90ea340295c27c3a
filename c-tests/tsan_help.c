/* Linked to the C programs by tsan.sh. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

/* std::sync::Mutex, the part that waits, with the meaning that std gives it (0 free, 1 locked, 2 locked and maybe waited
 * for). The one in std is compiled without ThreadSanitizer, which therefore does not see that the waiter got the lock and
 * reports every lock that was fought for as missing. tsan.sh puts this in its place. */
#ifdef LOCK_CONTENDED
void LOCK_CONTENDED(uint32_t *word);
void LOCK_CONTENDED(uint32_t *word)
{
    while (__atomic_exchange_n(word, 2, __ATOMIC_ACQUIRE) != 0)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, 2, NULL);
}
#endif

void __sanitizer_symbolize_pc(void *pc, const char *format, char *out, size_t size);

static void *nothing(void *argument)
{
    return argument;
}

/* Tests count the fds and threads of their process. The sanitizer's own (two pipes to its symbolizer, from the first report
 * on, also a suppressed one; a thread, from the first pthread_create on) are there from the start. */
__attribute__((constructor)) static void start_all_of_the_sanitizer(void)
{
    char text[64];
    pthread_t thread;
    __sanitizer_symbolize_pc((void *)(uintptr_t)nothing, "%f", text, sizeof text);
    if (pthread_create(&thread, NULL, nothing, NULL) == 0)
        pthread_join(thread, NULL);
}
