"""Child processes and the private RabbitMQ node of the demonstration. Never touches another node:
its name, ports, cookie, port mapper and directory are its own.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
import unicodedata

import pika

PR_SET_PDEATHSIG = 1


class Failure(Exception):
    """The demonstration cannot go on, or its proof failed; the text is for the reader."""


class Late(Failure):
    """A condition did not come true in time."""


def safe(text):
    """Log content for a terminal: nothing in it moves the cursor, colours or hides."""
    return "".join(
        f"\\u{{{ord(char):x}}}" if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") else char
        for char in text
    )


def wait_for(what, condition, seconds, alive=lambda: None):
    """Polls until `condition()` is true and returns it; `alive` raises when waiting is in vain."""
    deadline = time.monotonic() + seconds
    while True:
        alive()
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise Late(f"{what}: not within {seconds} s.")
        time.sleep(0.05)


def die_with_parent():
    """Runs in the child: it is killed if this script is killed without a chance to clean up."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A process in a session of its own, so that Ctrl-C reaches only this script."""

    def __init__(self, name, command, environment, log):
        self.name = name
        self.log = log
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def alive(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} ended by itself with status {self.process.returncode}.\n{self.tail()}")

    def tail(self):
        with open(self.log, "rb") as log:
            lines = log.read().decode(errors="replace").splitlines()[-20:]
        return "\n".join(f"  {self.name}: {safe(line)}" for line in lines)

    def stop(self, seconds):
        """SIGTERM, and SIGKILL to what is left of the session when it has ended or after `seconds`;
        returns the exit status."""
        if self.process.returncode is None:
            self.process.terminate()
            # Not reaped yet, so that the number still names this session below.
            deadline = time.monotonic() + seconds
            while not self._has_ended() and time.monotonic() < deadline:
                time.sleep(0.02)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def _has_ended(self):
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def free_ports(count):
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Broker:
    """A RabbitMQ node with its own name, ports, cookie and directory, and its own epmd."""

    def __init__(self, directory, cleanup):
        os.mkdir(directory)
        self.port, epmd_port, dist_port = free_ports(3)
        conf = os.path.join(directory, "rabbitmq.conf")
        with open(conf, "w", encoding="utf-8") as out:
            out.write(
                f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
                "disk_free_limit.absolute = 50MB\n"
                "log.console = true\nlog.console.level = warning\nlog.file = false\n"
            )
        plugins = os.path.join(directory, "enabled_plugins")
        with open(plugins, "w", encoding="utf-8") as out:
            out.write("[].\n")
        ours = {
            "HOME": directory,  # the Erlang cookie is made here
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_CRASH_DUMP": "/dev/null",
            "RABBITMQ_ALLOW_INPUT": "true",  # no shell between us and the node
            "RABBITMQ_CONF_ENV_FILE": os.path.join(directory, "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": conf,
            "RABBITMQ_CONFIG_FILES": os.path.join(directory, "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": os.path.join(directory, "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": plugins,
            "RABBITMQ_NODENAME": f"fantail-demo-{os.getpid()}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_MNESIA_BASE": os.path.join(directory, "mnesia"),
            "RABBITMQ_LOG_BASE": os.path.join(directory, "log"),
            "RABBITMQ_PID_FILE": os.path.join(directory, "pid"),
            "RABBITMQ_FEATURE_FLAGS_FILE": os.path.join(directory, "feature_flags"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-noinput -start_epmd false"
            " -kernel inet_dist_use_interface {127,0,0,1}",
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("RABBITMQ_", "ERL_", "NOTIFY_SOCKET"))
        }
        environment = {**inherited, **ours}
        epmd = Child(
            "epmd",
            ["epmd", "-address", "127.0.0.1", "-port", str(epmd_port)],
            environment,
            os.path.join(directory, "epmd.out"),
        )
        cleanup.callback(epmd.stop, 5)
        wait_for("epmd", lambda: answers(epmd_port), 10, epmd.alive)
        self.node = Child(
            "rabbitmq",
            ["/usr/lib/rabbitmq/bin/rabbitmq-server"],
            environment,
            os.path.join(directory, "node.out"),
        )
        cleanup.callback(self.node.stop, 10)
        self.connection = wait_for("RabbitMQ", self._connect, 90, self.node.alive)
        cleanup.callback(self._disconnect)
        self.channel = self.connection.channel()

    @property
    def url(self):
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2f"

    def _connect(self):
        with contextlib.suppress(pika.exceptions.AMQPError, OSError):
            if answers(self.port):
                # No heartbeats: this script is not always at the socket.
                return pika.BlockingConnection(
                    pika.URLParameters(self.url + "?heartbeat=0&blocked_connection_timeout=10")
                )
        return None

    def _disconnect(self):
        with contextlib.suppress(Exception):
            self.connection.close()

    def depth(self, queue):
        """Messages in `queue`, or None while it does not exist."""
        try:
            return self.channel.queue_declare(queue, passive=True).method.message_count
        except pika.exceptions.ChannelClosedByBroker as closed:
            self.channel = self.connection.channel()
            if closed.reply_code != 404:
                raise
            return None

    def depths(self, queues):
        return [self.depth(queue) for queue in queues]
