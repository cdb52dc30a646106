"""POSTs each gift to a provider, signed by the Standard Webhooks scheme.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import requests
from standardwebhooks import Webhook

from app.delivery.errors import PermanentError, TimedOut, TransientError
from app.gifts.senders import Parcel
from app.gifts.senders.egress import AddressRefusedError, PublicOnlyAdapter

#: A provider that has seen this gift id says 409: the gift was delivered by an earlier call.
SENT = range(200, 300)
DUPLICATE = HTTPStatus.CONFLICT
TRY_AGAIN = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY, HTTPStatus.TOO_MANY_REQUESTS)


class WebhookSender:
    def __init__(
        self,
        url: str,
        secret: str,
        *,
        connect_timeout: float,
        read_timeout: float,
        public_only: bool,
        allowed_hosts: frozenset[str],
    ) -> None:
        """
        Args:
            secret: "whsec_" and base64; never logged.
            connect_timeout, read_timeout: seconds.
            public_only: refuse private and link-local addresses, except those of `allowed_hosts`.
        """
        self._url = url
        self._webhook = Webhook(secret)
        self._timeout = (connect_timeout, read_timeout)
        self._session = requests.Session()
        self._session.trust_env = False  # neither a proxy nor a netrc may see a code
        if public_only:
            adapter = PublicOnlyAdapter(allowed_hosts)
            self._session.mount("https://", adapter)
            self._session.mount("http://", adapter)

    def send(self, parcel: Parcel, execution: int) -> None:
        body = _body(parcel)
        now = datetime.now(UTC)
        message_id = str(parcel.gift_id)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": message_id,
            "User-Agent": "okuru",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": self._webhook.sign(message_id, now, body),
            "Okuru-Execution": str(execution),
        }
        try:
            # The body of the answer is never read: it says nothing that the status does not.
            with self._session.post(
                self._url,
                data=body.encode(),
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                _judge(response)
        except requests.ReadTimeout:
            raise TimedOut("PROVIDER_TIMEOUT", "the provider did not answer in time") from None
        except AddressRefusedError as error:
            raise TransientError("ADDRESS_REFUSED", str(error)) from None
        except requests.RequestException as error:
            raise TransientError(
                "PROVIDER_UNREACHABLE", f"no answer: {type(error).__name__}"
            ) from None


def _body(parcel: Parcel) -> str:
    """The same bytes at every execution, so that a provider may compare them."""
    return json.dumps(
        {
            "type": "gift.sent",
            "timestamp": parcel.accepted_at.isoformat(),
            "data": {
                "gift_id": str(parcel.gift_id),
                "code": str(parcel.code),
                "amount": parcel.amount,
                "message": parcel.message,
                "recipient": parcel.recipient,
            },
        },
        ensure_ascii=False,
    )


def _judge(response: requests.Response) -> None:
    status = response.status_code
    if status in SENT or status == DUPLICATE:
        return
    said = f"the provider answered {status}"
    if status in TRY_AGAIN or status >= 500:
        raise TransientError(f"PROVIDER_{status}", said, retry_after=_retry_after(response))
    if 300 <= status < 400:
        # Not followed: the code would go where nobody configured it. An operator can mend the URL.
        raise TransientError(f"PROVIDER_{status}", f"{said}, a redirect, which is not followed")
    raise PermanentError(f"PROVIDER_{status}", said)


def _retry_after(response: requests.Response) -> float | None:
    """Seconds (RFC 9110, 10.2.3: a number or a date), or None when absent or unreadable."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
