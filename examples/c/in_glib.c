/* Doorbell inside a main loop of GLib (GTK, GStreamer, ...). See nested.h. */
#define _GNU_SOURCE
#include "nested.h"
#include <glib-unix.h>
#include <glib.h>

struct program {
    struct nested nested;
    GMainLoop *loop;
};

static gboolean on_readable(gint fd, GIOCondition condition, gpointer argument)
{
    (void)fd;
    (void)condition;
    struct program *program = argument;
    if (nested_turn(&program->nested))
        return G_SOURCE_CONTINUE;
    g_main_loop_quit(program->loop);
    return G_SOURCE_REMOVE;
}

/* A timer of GLib's own, to show that its loop runs. */
static gboolean on_timer(gpointer argument)
{
    (void)argument;
    printf("GLib's timer\n");
    fflush(stdout);
    return G_SOURCE_CONTINUE;
}

int main(int argc, char **argv)
{
    if (argc != 1)
        usage(argv, "    (reads standard input to its end)");
    struct program program = {.loop = g_main_loop_new(NULL, FALSE)};
    nested_open(&program.nested);
    g_unix_fd_add(program.nested.fd, G_IO_IN, on_readable, &program);
    const guint timer = g_timeout_add(250, on_timer, NULL);
    g_main_loop_run(program.loop);
    g_source_remove(timer);
    g_main_loop_unref(program.loop);
    nested_close(&program.nested);
    return 0;
}
