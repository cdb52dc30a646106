"""SQS, emulated by `ministack` in a virtual environment of its own."""

import http.client
import sys
from pathlib import Path

from okuru.stack.environment import REGION
from okuru.stack.errors import StackError
from okuru.stack.ports import LOOPBACK
from okuru.stack.server import Launch, Server

ACCOUNT = "000000000000"

# ministack pins a botocore that is not ours.
_PYTHON = Path(sys.prefix) / "emulators" / "sqs" / "bin" / "python"


class Sqs(Server):
    """An SQS that writes its queues to disk when it is stopped with TERM, and only then."""

    name = "sqs"
    title = "SQS"

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def queue_url_prefix(self) -> str:
        return f"{self.url}/{ACCOUNT}/okuru-"

    def prepare(self) -> Launch:
        if not _PYTHON.exists():
            raise StackError(f"the SQS emulator is not installed in {sys.prefix}: run `make setup`")
        state = self._home.path / "sqs"
        state.mkdir(mode=0o700, exist_ok=True)
        # Nothing of the caller's environment: its AWS, proxy and Docker settings are not for this.
        environment = {
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": LOOPBACK,
            "MINISTACK_HOST": LOOPBACK,
            "MINISTACK_REGION": REGION,
            "SERVICES": "sqs",
            "PERSIST_STATE": "1",
            "STATE_DIR": str(state),
            # Where it puts its pid file.
            "TMPDIR": str(state),
            # These would listen on every interface.
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "PYTHONUNBUFFERED": "1",
        }
        return Launch([str(_PYTHON), "-m", "ministack"], environment)

    def answers(self) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=1)
        try:
            connection.request("GET", "/_ministack/health")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
