"""A boto3 client whose calls end soon, one way or the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

#: What a call raises when SQS is unreachable, slow, or says no.
SQS_ERRORS = (BotoCoreError, ClientError)

#: One try: whoever calls knows better than botocore when and whether to try again.
CLIENT_CONFIG = {
    "connect_timeout": 2,
    "read_timeout": 5,
    "retries": {"total_max_attempts": 1},
    "max_pool_connections": 10,
}


def client(region: str, **options: Any) -> SQSClient:
    """Thread-safe; make it once and keep it.

    Args:
        options: for boto3, which otherwise finds AWS_ENDPOINT_URL and credentials by itself.
    """
    made: SQSClient = boto3.client(
        "sqs",
        region_name=region,
        **options,
        config=Config(**CLIENT_CONFIG),  # type: ignore[arg-type]
    )
    return made
