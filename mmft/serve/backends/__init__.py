"""The programs that answer behind the gateway: which of them serves a directory, how each is started and watched."""
