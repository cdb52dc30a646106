"""The local stack: real servers and the processes of the Procfile, without Docker.

    with Stack(Home.from_environment()) as stack:
        stack.processes.start()
        stack.wait_until_ready()

It needs requirements/dev.txt, which production does not have: only the commands of the local stack
import `okuru.stack.stack`.
"""
