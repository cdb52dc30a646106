"""`/jobs`: HTTP only."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from flask import jsonify, url_for
from flask.typing import ResponseReturnValue

from app import db
from app.accounts.principal import current
from app.http.blueprint import LOCATION, Blueprint
from app.http.pagination import page
from app.idempotency import service as idempotency
from app.idempotency.headers import REPLAYED, OptionalKey, mark
from app.jobs import service, statistics
from app.jobs.models import PROCESSING, Job
from app.jobs.schemas import JobAttempts, JobIn, JobOut, JobPage, JobQuery, JobStats

JOB_OUT = JobOut()

blueprint = Blueprint("jobs", __name__, url_prefix="/jobs", description="Background jobs.")


@blueprint.post("")
@blueprint.arguments(JobIn)
@blueprint.arguments(OptionalKey, location="headers")
@blueprint.response(202, JobOut, headers={**LOCATION, **REPLAYED}, description="Enqueued.")
@blueprint.alt_response(
    200, schema=JobOut, headers=LOCATION, success=True,
    description="A live job has this `unique_key`: here it is.",
)  # fmt: skip
@blueprint.refuses(400, 403, 409, 413, 415, 422)
def create(fields: dict[str, Any], headers: dict[str, Any]) -> ResponseReturnValue:
    """Enqueue a job

    With a `unique_key`, a second enqueue while the first job is live answers the first one. With
    an `Idempotency-Key` the request may be repeated for 24 hours.
    """
    principal = current()

    def answer() -> dict[str, Any]:
        enqueued = service.request(session, principal, fields)
        return {"status": 202 if enqueued.is_new else 200, "job": JOB_OUT.dump(enqueued.job)}

    with db.transaction() as session:
        answered = idempotency.once(
            session,
            account_id=principal.account_id,
            scope="POST /jobs",
            key=headers.get("idempotency_key"),
            request=fields,
            answer=answer,
        )
    response = jsonify(answered.body["job"])
    response.status_code = answered.body["status"]
    response.headers["Location"] = url_for("jobs.get", job_id=answered.body["job"]["job_id"])
    return mark(response, replayed=answered.replayed)


@blueprint.get("")
@blueprint.arguments(JobQuery, location="query")
@blueprint.response(200, JobPage)
@blueprint.refuses(400)
def list_jobs(query: dict[str, Any]) -> dict[str, Any]:
    """List your jobs, newest first

    An operator also sees the jobs of typed messages, which belong to no account.
    """
    with db.transaction() as session:
        rows = service.list_jobs(
            session,
            current(),
            limit=query["limit"] + 1,
            status=query.get("status"),
            job_type=query.get("job_type"),
            before=query.get("cursor"),
        )
    return page(rows, query["limit"])


@blueprint.get("/stats")
@blueprint.response(200, JobStats)
@blueprint.refuses()
def stats() -> dict[str, Any]:
    """See how the queue is doing

    Counts your jobs; an operator's key counts everyone's.
    """
    with db.transaction() as session:
        return statistics.stats(session, current())


@blueprint.get("/<uuid:job_id>")
@blueprint.response(200, JobOut)
@blueprint.refuses(403, 404)
def get(job_id: UUID) -> Job:
    """Watch a job"""
    with db.transaction() as session:
        return service.get(session, current(), job_id)


@blueprint.get("/<uuid:job_id>/attempts")
@blueprint.response(200, JobAttempts)
@blueprint.refuses(403, 404)
def attempts(job_id: UUID) -> dict[str, Any]:
    """See every execution of a job, oldest first"""
    with db.transaction() as session:
        return {"items": service.attempts(session, current(), job_id)}


@blueprint.post("/<uuid:job_id>/cancel")
@blueprint.response(200, JobOut, description="It is cancelled.")
@blueprint.alt_response(
    202, schema=JobOut, success=True,
    description="It runs, and ends as soon as its processor looks.",
)  # fmt: skip
@blueprint.refuses(403, 404, 409)
def cancel(job_id: UUID) -> ResponseReturnValue:
    """Call a job off

    A job that is waiting never starts. One that runs is asked to stop. 409 when it has completed
    or failed; asking again changes nothing.
    """
    with db.transaction() as session:
        job = service.cancel(session, current(), job_id)
    response = jsonify(JOB_OUT.dump(job))
    response.status_code = 202 if job.status == PROCESSING else 200
    return response


@blueprint.post("/<uuid:job_id>/retry")
@blueprint.response(202, JobOut, description="Queued again.")
@blueprint.refuses(403, 404, 409)
def retry(job_id: UUID) -> ResponseReturnValue:
    """Run a failed job again

    With as many executions as at first. 409 unless the job is `FAILED`, or while another live job
    has its `unique_key`.
    """
    with db.transaction() as session:
        job = service.retry(session, current(), job_id)
    response = jsonify(JOB_OUT.dump(job))
    response.status_code = 202
    return response
