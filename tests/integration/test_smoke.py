from flask.testing import FlaskClient


def test_send(client: FlaskClient) -> None:
    gift = client.post("/gifts", json={"amount": 5}).get_json()
    assert (
        client.post(f"/gifts/{gift['gift_id']}/send", headers={"Idempotency-Key": "k"}).status_code
        == 202
    )
