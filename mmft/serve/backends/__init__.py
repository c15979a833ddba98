"""The programs that answer behind the gateway: which of them serves a directory, how each is started and watched.

``support``          the table: which backend runs which model
``directory_check``  what is wrong with a directory, and what to do about it
``weight_files``     its weights, without reading a tensor
``with_tags``        a view of it whose answers keep their tags
``servable``         the directory that is served, an export if need be; whether only mmft itself can serve it
``choose``           the backend for a directory, and the command lines of all
``launch``           the processes of a server, not started yet
``fleet``            these processes started, watched, restarted and stopped
``child_process``    one of them
``mmft_server``      the program of mmft's own backend
"""
