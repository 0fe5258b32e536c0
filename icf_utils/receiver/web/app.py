"""The web application about sessions, and its server: pages, JSON, downloads, retries, deletion, uploads of zips.

Reads and writes the journal, and listens on the network. Every request needs the token
(:mod:`icf_utils.receiver.web.guard`). Paths on the disk come from the journal or the store, never from a request, and
no program is started. Flask routes requests; waitress serves them, in a thread of its own or in the main thread.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from http.client import responses
from typing import Any

from flask import Flask, Request, Response, abort, jsonify, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException

from icf_utils.dicom.ae_titles import parse_ae_title
from icf_utils.errors import IcfError, InputRefused, InvalidIdentifier, InvalidSetting, StorageFailure, printable
from icf_utils.formatting import format_count
from icf_utils.installation import missing_package
from icf_utils.page_style import STYLE_NAME, shared_style
from icf_utils.progress import SILENT, Progress
from icf_utils.receiver.arguments import announce_arguments, split_words
from icf_utils.receiver.journal import Journal
from icf_utils.receiver.model import Session, SessionFilter, in_one_line
from icf_utils.receiver.processings import request_rerun, session_processings
from icf_utils.receiver.quarantine import accept_quarantine, drop_quarantine, quarantined_images
from icf_utils.receiver.routing import read_states, request_resend
from icf_utils.receiver.spool import is_held, space_problem
from icf_utils.receiver.web import downloads, guard, views
from icf_utils.receiver.web.catalog_links import catalog_page
from icf_utils.receiver.web.metrics import collect_metrics, format_metrics, health_problem
from icf_utils.receiver.web.queries import parse_query
from icf_utils.receiver.web.records import event_records, quarantine_record, rejection_record, session_record
from icf_utils.receiver.web.settings import WebSettings
from icf_utils.receiver.web.uploads import UploadSpace, enqueue_upload
from icf_utils.receiver.web.virtual_zip import ZipCache
from icf_utils.receiver.web.zip_response import zip_response
from icf_utils.store.layout import Visit

Log = Callable[[str], None]

#: What can be done with the sessions that were chosen in the list, and how its outcome is put.
_CHANGES = {"retry": "queued again", "delete": "deleted"}
#: The action and place for which the list's form has its token.
_BULK = ("bulk", "list")

#: Titles and advice of the pages about what was refused, by HTTP status.
_PROBLEMS = {
    400: ("Invalid address or form", "Return to the list of sessions and try again from there."),
    401: ("Authentication required", "Load the page again, and give the token as the password."),
    403: ("Not allowed", "Load the page again and repeat it from there: its forms have changed."),
    404: ("Not found", "The session may have been deleted, or the address may be misspelt."),
    405: ("Method not allowed", "This address is for programs, not for browsers."),
    409: ("Not possible now", "Load the session's page again: its state has changed."),
}

#: What can be done with the images in quarantine.
_DECISIONS = ("accept", "drop")

_STATUS: dict[type[IcfError], int] = {
    InvalidIdentifier: 400,
    InvalidSetting: 400,
    InputRefused: 422,
    StorageFailure: 507,
    downloads.NotAvailable: 409,
}


def create_app(journal: Journal, settings: WebSettings, log: Log) -> Flask:
    """The WSGI application; ``log`` gets a line for each request that is refused, fails or changes something."""
    app = Flask(__name__)
    app.request_class = _request_class(UploadSpace(journal.spool / "uploads", settings.reserve))
    app.config["MAX_CONTENT_LENGTH"] = settings.upload_limit + (1 << 20)
    app.json.sort_keys = False  # type: ignore[attr-defined]
    handlers = _Handlers(journal, settings, log)
    app.before_request(handlers.admit)
    app.after_request(guard.allow_scripts_in_pages)  # runs after the next line: the last one is called first
    app.after_request(guard.add_security_headers)
    app.register_error_handler(IcfError, handlers.report_error)
    app.register_error_handler(HTTPException, handlers.report_http_error)
    app.register_error_handler(Exception, handlers.report_bug)
    views.add_filters(app)
    _add_routes(app, handlers)
    if settings.compatible:
        _add_compatible_routes(app, handlers)
    return app


def _request_class(space: UploadSpace) -> type[Request]:
    """A class of requests whose files go to the spool's disk, and not to that of temporary files."""

    class SpooledRequest(Request):
        def _get_file_stream(self, *words: object, **more: object) -> Any:
            return space.new_file()

    return SpooledRequest


def _add_routes(app: Flask, handlers: _Handlers) -> None:
    app.add_url_rule(f"/static/{STYLE_NAME}", "shared_style", lambda: Response(shared_style(), mimetype="text/css"))
    app.add_url_rule("/", "home", handlers.home)
    app.add_url_rule("/view/<session_id>", "view", handlers.view)
    app.add_url_rule("/view/<session_id>/delete", "delete_by_form", handlers.delete_by_form, methods=["POST"])
    app.add_url_rule("/view/<session_id>/retry", "retry_by_form", handlers.retry_by_form, methods=["POST"])
    app.add_url_rule("/view/<session_id>/release", "release_by_form", handlers.release_by_form, methods=["POST"])
    app.add_url_rule("/view/<session_id>/<action>", "decide_by_form", handlers.decide_by_form, methods=["POST"])
    app.add_url_rule("/view", "bulk", handlers.change_chosen, methods=["POST"])
    app.add_url_rule("/sessions", "sessions", handlers.sessions)
    app.add_url_rule("/sessions", "post", handlers.post, methods=["POST"])
    app.add_url_rule("/health", "health", handlers.health)
    app.add_url_rule("/metrics", "metrics", handlers.metrics)
    app.add_url_rule("/space", "space", handlers.space)
    app.add_url_rule("/associations/rejected", "rejected", handlers.rejected)
    app.add_url_rule("/events", "events", handlers.events)
    app.add_url_rule("/events/retry", "retry_events", handlers.retry_events, methods=["POST"])
    app.add_url_rule("/sessions/counts", "counts", handlers.counts)
    app.add_url_rule("/sessions/<session_id>", "session", handlers.session)
    app.add_url_rule("/sessions/<session_id>", "delete", handlers.delete, methods=["DELETE"])
    app.add_url_rule("/sessions/<session_id>/retry", "retry", handlers.retry, methods=["POST"])
    app.add_url_rule("/sessions/<session_id>/release", "release", handlers.release, methods=["POST"])
    app.add_url_rule("/sessions/<session_id>/resend", "resend", handlers.resend, methods=["POST"])
    app.add_url_rule("/sessions/<session_id>/rerun", "rerun", handlers.rerun, methods=["POST"])
    app.add_url_rule("/view/<session_id>/rerun", "rerun_by_form", handlers.rerun_by_form, methods=["POST"])
    app.add_url_rule("/sessions/<session_id>/processings/<name>/log", "processing_log", handlers.processing_log)
    app.add_url_rule("/arguments", "announce", handlers.announce, methods=["POST"])
    app.add_url_rule(
        "/sessions/<session_id>/processings/<name>/output.zip", "processing_output", handlers.processing_zip
    )
    app.add_url_rule("/sessions/<session_id>/log", "log", handlers.log_text)
    app.add_url_rule("/sessions/<session_id>/input.zip", "input", handlers.input_zip)
    app.add_url_rule("/sessions/<session_id>/quarantine.zip", "quarantine_zip", handlers.quarantine_zip)
    app.add_url_rule("/sessions/<session_id>/quarantine", "quarantine", handlers.quarantine)
    app.add_url_rule(
        "/sessions/<session_id>/quarantine/<action>", "decide", handlers.decide_quarantine, methods=["POST"]
    )
    app.add_url_rule("/sessions/<session_id>/output.zip", "output", handlers.output_zip)


def _add_compatible_routes(app: Flask, handlers: _Handlers) -> None:
    """The URLs of MagickBox."""
    app.add_url_rule("/code/php/getScratch.php", "get_scratch", handlers.get_scratch)
    app.add_url_rule("/code/php/getOutputZip.php", "get_output_zip", handlers.get_output_zip)
    app.add_url_rule("/code/php/getInstalledBuckets.php", "get_buckets", handlers.get_buckets)
    app.add_url_rule("/code/php/deleteStudy.php", "delete_study", handlers.delete_study, methods=["POST"])
    app.add_url_rule("/code/php/processZip.php", "process_zip", handlers.process_zip, methods=["POST"])


class _Handlers:
    """Handles requests."""

    def __init__(self, journal: Journal, settings: WebSettings, log: Log) -> None:
        self._journal, self._settings, self._log = journal, settings, log
        self._zips = ZipCache()

    def admit(self) -> Response | None:
        """Refuse a request without the token, or one that a page of another site sent; called before all others."""
        if not guard.is_well_formed(request):
            self._note("400: malformed Host or Origin")
            return _problem("malformed Host or Origin", 400)
        if request.endpoint == "health":
            return None
        if not guard.is_known(request, self._settings.token):
            self._note("refused: the token is missing or wrong")
            headers = {"WWW-Authenticate": 'Basic realm="icf-utils", charset="UTF-8"'}
            return _problem(
                "authentication required: send the token as 'Authorization: Bearer TOKEN', or as the password",
                401,
                headers,
            )
        if request.method not in ("GET", "HEAD", "OPTIONS") and not guard.is_of_this_site(request):
            self._note("refused: sent from a page of another site")
            return _problem("the request was sent from a page of another site", 403)
        return None

    def report_error(self, error: IcfError) -> Response:
        status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 500)
        self._note(f"{status}: {in_one_line(str(error))}")
        text = "not enough space" if status == 507 else str(error)
        return _problem(
            text if status < 500 or status == 507 else "an error occurred; the server's log has the details", status
        )

    def report_http_error(self, error: HTTPException) -> Response:
        self._note(f"{error.code}: {error.name}")
        return _problem(error.name.lower(), error.code or 500)

    def report_bug(self, error: Exception) -> Response:
        """Report a bug by its type; its text could contain anything."""
        self._note(f"500: internal error ({type(error).__name__})")
        return _problem("internal error", 500)

    def _note(self, what: str) -> None:
        self._log(f"http: {request.remote_addr} {request.method} {printable(request.path[:200])}: {what}")

    def home(self) -> str:
        query = parse_query(_query_words(request))
        limit = min(query.limit or views.PAGE, views.PAGE)
        found = self._journal.sessions(query.wanted, limit + 1, query.offset)
        counts = self._journal.counts(_without_states(query.wanted))
        rejected = self._journal.rejected_associations(views.SHOWN_REJECTED)
        catalogs = {session.id: self._catalog_page(session) for session in found[:limit]}
        page = views.list_page(found[:limit], counts, query, time.time(), len(found) > limit, catalogs)
        page["bulk_form"] = guard.form_token(self._settings.token, *_BULK)
        page["rules"] = sorted({*self._settings.rules, *self._settings.processings, *filter(None, [query.wanted.rule])})
        page["rejected"] = views.rejected_rows(rejected)
        page["space_problem"] = self._space_problem()
        page["undelivered"] = self._journal.events.counts()["failed"]
        return render_template("sessions.html", **page)

    def view(self, session_id: str) -> str:
        session = self._known(session_id)
        log = downloads.read_log(session).decode("utf-8", "replace")
        actions = ("delete", "retry", "rerun", "release", *_DECISIONS)
        forms = {action: guard.form_token(self._settings.token, action, session.id) for action in actions}
        found = session_processings(session, self._settings.store, self._processings(session))
        page = views.session_page(
            session, log, forms, time.time(), found, read_states(session), catalog=self._catalog_page(session)
        )
        quarantined = quarantined_images(session, self._settings.store) if session.quarantined else []
        return render_template("session.html", **page, quarantined=views.quarantine_rows(quarantined))

    def _catalog_page(self, session: Session) -> str:
        """The address of a session's visit in its study's catalog; empty if the catalog does not show it."""
        place = Visit(self._settings.store, session.study, session.visit)
        return catalog_page(self._settings.store_url, place) if session.is_finished else ""

    def change_chosen(self) -> Any:
        """Retry or delete the sessions that were chosen in the list, and say what was done and what was not."""
        if not guard.is_form_token(request.form.get("form", ""), self._settings.token, *_BULK):
            abort(403)
        action, chosen = request.form.get("action", ""), request.form.getlist("session")
        back = request.form.get("back", "")
        page = {"back": back if back.startswith("/?") else "/"}
        if action == "delete" and request.form.get("sure") != "yes":
            return render_template("bulk.html", title="Nothing was deleted: tick the box to confirm", **page)
        if action not in _CHANGES or not chosen:
            return render_template("bulk.html", title="No sessions were chosen", **page)
        left = [problem for session_id in dict.fromkeys(chosen) if (problem := self._change(action, session_id))]
        done = format_count(len(set(chosen)) - len(left), "session")
        return render_template("bulk.html", title=f"{done} {_CHANGES[action]}", left=left, **page)

    def _change(self, action: str, session_id: str) -> str:
        """Retry or delete a session; returns why it was not done, or an empty text."""
        session = self._journal.session(session_id)
        if session is None or session.deleted:
            return f"{printable(session_id[:40])}: not found; it may have been deleted"
        possible = session.state == "failed" if action == "retry" else session.can_be_deleted
        if not possible:
            return f"{session.id} ({session.name}): not {_CHANGES[action]}, because it is {session.state}"
        try:
            if action == "retry":
                self._retry(session)
            else:
                self._journal.delete_session(session.id)
                self._note(f"{session.id} deleted")
        except IcfError as error:
            return f"{session.id} ({session.name}): {in_one_line(str(error))}"
        return ""

    def delete_by_form(self, session_id: str) -> Any:
        session = self._known_by_form("delete", session_id)
        if request.form.get("sure") != "yes":
            return redirect(url_for("view", session_id=session.id), 303)
        self._journal.delete_session(session.id)
        self._note("deleted")
        return redirect(url_for("home"), 303)

    def retry_by_form(self, session_id: str) -> Any:
        session = self._known_by_form("retry", session_id)
        if session.state == "failed":  # otherwise the button was pressed twice
            self._retry(session)
        return redirect(url_for("view", session_id=session.id), 303)

    def release_by_form(self, session_id: str) -> Any:
        session = self._known_by_form("release", session_id)
        if session.state == "held":  # otherwise the button was pressed twice
            self._release(session)
        return redirect(url_for("view", session_id=session.id), 303)

    def _known_by_form(self, action: str, session_id: str) -> Session:
        session = self._known(session_id)
        if not guard.is_form_token(request.form.get("form", ""), self._settings.token, action, session.id):
            abort(403)
        return session

    def retry(self, session_id: str) -> Response:
        session = self._known(session_id)
        if session.state != "failed":
            return _problem(f"{session.id} is {session.state}; only a failed one can be retried", 409)
        return jsonify(self._record(self._retry(session)))

    def release(self, session_id: str) -> Response:
        session = self._known(session_id)
        if session.state != "held":
            return _problem(f"{session.id} is {session.state}; only a held one can be released", 409)
        return jsonify(self._record(self._release(session)))

    def _release(self, session: Session) -> Session:
        queued = self._journal.release(session.id)
        self._note("released")
        return queued

    def _retry(self, session: Session) -> Session:
        if self._settings.rules and session.rule not in self._settings.rules:
            raise InvalidSetting("rule", f"'{printable(session.rule)}' was removed from the settings")
        queued = self._journal.retry(session.id)
        self._note("queued again")
        return queued

    def sessions(self) -> Response:
        query = parse_query(_query_words(request))
        found = self._journal.sessions(query.wanted, query.limit, query.offset)
        response = jsonify([self._record(session) for session in found])
        response.headers["X-Total-Count"] = str(sum(self._journal.counts(query.wanted).values()))
        return response

    def counts(self) -> Response:
        return jsonify(self._journal.counts(parse_query(_query_words(request)).wanted))

    def session(self, session_id: str) -> Response:
        return jsonify(self._record(self._known(session_id)))

    def delete(self, session_id: str) -> Response:
        session = self._known(session_id)
        if not session.can_be_deleted:
            return _problem(f"{session.id} is {session.state}; only a finished one can be deleted", 409)
        self._journal.delete_session(session.id)
        self._note("deleted")
        return Response(status=204)

    def post(self) -> Response:
        """Accept a zip of one visit, as the request's body or as the file of a form."""
        given = request.files.get("file")
        if given is None and request.mimetype not in ("application/zip", "application/octet-stream"):
            return _problem("expected a body of type application/zip", 415)
        session, is_new = enqueue_upload(
            given.stream if given else request.stream,
            request.content_length,
            request.args.get("rule", ""),
            request.args.get("visit", ""),
            _sender(request.args.get("sender", "")),
            request.remote_addr or "",
            arguments=request.values.get("arguments", ""),
            journal=self._journal,
            settings=self._settings,
        )
        response = jsonify(self._record(session))
        response.status_code = 201 if is_new else 200
        response.headers["Location"] = url_for("session", session_id=session.id)
        return response

    def announce(self) -> Response:
        """Keep arguments for the images of a study that are sent next."""
        words = split_words(request.values.get("arguments", ""))
        announce_arguments(self._journal.spool, request.values.get("study_key", ""), words)
        return Response(status=204)

    def process_zip(self) -> Response:
        """Accept a zip for an AE title, as MagickBox's clients post it: ``aetitle``, a file, perhaps ``arguments``."""
        given = next(iter(request.files.values()), None)
        title = _sender(request.values.get("aetitle", ""))
        rule = next((bucket.name for bucket in self._settings.buckets if bucket.ae_title == title), "")
        if given is None or not rule:
            return _problem("expected 'aetitle', one of getInstalledBuckets.php, and a file", 400)
        session, _ = enqueue_upload(
            given.stream,
            request.content_length,
            rule,
            _visit_of_zip(request),
            "",
            request.remote_addr or "",
            arguments=request.values.get("arguments", ""),
            journal=self._journal,
            settings=self._settings,
        )
        return jsonify(self._record(session))

    def health(self) -> Response:
        """Whether images are taken; without the token, and without any other information."""
        problem = health_problem(self._journal.spool, self._settings.reserve)
        return _problem(problem, 503) if problem else jsonify({"status": "ok"})

    def metrics(self) -> Response:
        text = format_metrics(collect_metrics(self._journal, self._settings.reserve))
        return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")

    def space(self) -> Response:
        """Whether images are refused for lack of space."""
        return jsonify({"problem": self._space_problem()})

    def _space_problem(self) -> str:
        """Why the receiver refuses images for lack of space; empty if it does not, or if no receiver is running."""
        spool = self._journal.spool
        return space_problem(spool, self._settings.reserve) if is_held(spool) else ""

    def rejected(self) -> Response:
        """The associations that were rejected last."""
        return jsonify(
            [rejection_record(item) for item in self._journal.rejected_associations(downloads.MOST_REJECTED)]
        )

    def events(self) -> Response:
        """The last deliveries of events; ``state`` selects."""
        return jsonify(event_records(self._journal, request.args.get("state", "")))

    def retry_events(self) -> Response:
        """Queue the deliveries that failed again."""
        amount = self._journal.events.retry_failed()
        self._note(f"{format_count(amount, 'event')} queued again")
        return jsonify({"queued": amount})

    def quarantine(self, session_id: str) -> Response:
        found = quarantined_images(self._known(session_id), self._settings.store)
        return jsonify([quarantine_record(item) for item in found])

    def quarantine_zip(self, session_id: str) -> Response:
        session = self._known(session_id)
        return zip_response(
            request, self._zips.get(downloads.quarantine_members(session)), f"{session.id}-quarantine.zip"
        )

    def decide_quarantine(self, session_id: str, action: str) -> Response:
        """Accept or drop the images in quarantine; responds with the session of the corrected visit, or this one."""
        return jsonify(self._record(self._decide_quarantine(self._known(session_id), action)))

    def decide_by_form(self, session_id: str, action: str) -> Any:
        if action not in _DECISIONS:
            abort(404)
        session = self._known_by_form(action, session_id)
        if action == "drop" and request.form.get("sure") != "yes":
            return redirect(url_for("view", session_id=session.id), 303)
        if session.quarantined:  # otherwise the button was pressed twice
            session = self._decide_quarantine(session, action)
        return redirect(url_for("view", session_id=session.id), 303)

    def _decide_quarantine(self, session: Session, action: str) -> Session:
        if action not in _DECISIONS:
            abort(404)
        if action == "accept":
            found = accept_quarantine(self._journal, self._settings.store, session)
        else:
            found = drop_quarantine(self._journal, session)
        self._note(f"images in quarantine: {action}")
        return found

    def log_text(self, session_id: str) -> Response:
        return Response(downloads.read_log(self._known(session_id)), mimetype="text/plain")

    def input_zip(self, session_id: str) -> Response:
        session = self._known(session_id)
        found = self._zips.get(downloads.input_members(session))
        return zip_response(request, found, f"{session.id}-input.zip")

    def output_zip(self, session_id: str) -> Response:
        session = self._known(session_id)
        found = self._zips.get(downloads.output_members(session, self._settings.store, self._processings(session)))
        return zip_response(request, found, f"{session.id}-output.zip")

    def get_scratch(self) -> Response:
        return jsonify([self._record(session) for session in self._journal.sessions()])

    def get_output_zip(self) -> Response:
        """Send a zip. ``folder`` is a session's ``scratchdir``: it is looked up in the journal, not used as a path."""
        session = self._known(request.args.get("folder", ""))
        kind = request.args.get("type", "output")
        if kind not in ("input", "output"):
            raise InvalidSetting("type", "expected input or output")
        members = downloads.members_of(session, kind, self._settings.store, self._processings(session))
        return zip_response(request, self._zips.get(members), f"{session.id}.zip")

    def _known(self, session_id: str) -> Session:
        """The session of an id, unless it was deleted; answers 404 to any other text."""
        session = self._journal.session(session_id)
        if session is None or session.deleted:
            abort(404)
        return session

    def _record(self, session: Session) -> dict[str, object]:
        found = session_processings(session, self._settings.store, self._processings(session))
        return session_record(session, *downloads.log_status(session), time.time(), found, read_states(session))

    def _processings(self, session: Session) -> tuple[str, ...]:
        return self._settings.processings.get(session.rule, ())

    def rerun(self, session_id: str) -> Response:
        """Run processings of a session again: those that ``processing`` names, or all."""
        session = self._known(session_id)
        return jsonify(self._record(self._rerun(session, request.args.getlist("processing"))))

    def resend(self, session_id: str) -> Response:
        """Send a session again: to the targets that ``target`` names, or to all."""
        session = self._known(session_id)
        if not session.is_finished:
            abort(409)
        request_resend(self._journal.spool, session, request.args.getlist("target"))
        self._note("queued for sending again")
        return jsonify(self._record(session))

    def rerun_by_form(self, session_id: str) -> Any:
        session = self._known_by_form("rerun", session_id)
        if session.is_finished:  # otherwise the button was pressed twice
            self._rerun(session, [])
        return redirect(url_for("view", session_id=session.id), 303)

    def _rerun(self, session: Session, names: list[str]) -> Session:
        known = self._processings(session)
        if not known or not set(names) <= set(known):
            problem = f"the processings of its rule are: {', '.join(known) or 'none'}"
            raise InvalidSetting("processing", problem)
        if not session.is_finished:
            abort(409)
        request_rerun(session, names)
        queued = self._journal.rerun(session.id)
        self._note("queued for processing again")
        return queued

    def processing_log(self, session_id: str, name: str) -> Response:
        session = self._known(session_id)
        if name not in self._processings(session):
            abort(404)
        text = downloads.read_processing_log(session, self._settings.store, name)
        return Response(text, mimetype="text/plain")

    def processing_zip(self, session_id: str, name: str) -> Response:
        """The files that a processing of a session has left."""
        session = self._known(session_id)
        if name not in self._processings(session):
            abort(404)
        members = downloads.output_members(session, self._settings.store, (name,))
        return zip_response(request, self._zips.get(members), f"{session.id}-{name}.zip")

    def get_buckets(self) -> Response:
        """List the rules as MagickBox lists its buckets."""
        return jsonify(
            [
                {
                    "name": bucket.name,
                    "AETitle": bucket.ae_title,
                    "description": bucket.description,
                    "version": bucket.version,
                    "enabled": 1,
                }
                for bucket in self._settings.buckets
            ]
        )

    def delete_study(self) -> Response:
        """Delete a session by its ``scratchdir``, as MagickBox's clients do; only by POST."""
        return self.delete(request.values.get("scratchdir", "") or request.values.get("folder", ""))


def _query_words(given: Request) -> dict[str, list[str]]:
    return dict(given.args.lists())


def _sender(text: str) -> str:
    return parse_ae_title("sender", text) if text else ""


def _visit_of_zip(given: Request) -> str:
    """The identifier that a client gives, or a new one: MagickBox has no identifiers."""
    return given.values.get("visit", "") or f"zip-{secrets.token_hex(6)}"


def _without_states(wanted: SessionFilter) -> SessionFilter:
    return replace(wanted, states=())


def _problem(text: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """Say why a request was refused: as a page to a browser, as JSON to a program."""
    accepted = request.accept_mimetypes.best_match(["application/json", "text/html"])
    if accepted == "text/html":
        title, advice = _PROBLEMS.get(status, (responses.get(status, "Error"), ""))
        response = Response(
            render_template(
                "problem.html", title=title, text=text if text != title.lower() else "", advice=advice, now=0
            )
        )
    else:
        response = jsonify({"error": text})
    response.status_code = status
    response.headers.update(headers or {})
    return response


#: Requests that are handled at the same time; a download is one of them.
_THREADS = 8


class WebServer:
    """Serves the sessions of a journal at ``url``.

    Raises :class:`~icf_utils.errors.MissingRequirement` without waitress, and
    :class:`~icf_utils.errors.StorageFailure` for an address that cannot be used.
    """

    def __init__(
        self, journal: Journal, settings: WebSettings, host: str, port: int, progress: Progress = SILENT
    ) -> None:
        try:
            from waitress import create_server

            from icf_utils.receiver.web.connections import ADJUSTMENTS, Limits

        except ImportError as error:
            raise missing_package(error.name or "flask", "intake") from error
        app = create_app(journal, settings, progress.message)
        try:
            space = UploadSpace(journal.spool / "uploads", settings.reserve)
            self._server: Any = create_server(
                app,
                host=host,
                port=port,
                threads=_THREADS,
                ident="icf-utils",
                max_request_body_size=settings.upload_limit + (1 << 20),
                clear_untrusted_proxy_headers=True,
                **ADJUSTMENTS,
            )
            Limits(partial(guard.has_token, token=settings.token), space, progress.message).apply(self._server)
        except OSError as error:
            raise StorageFailure(f"{host}:{port}", "listen at", error) from error
        shown_host = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown_host}:{self._server.effective_port}"
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serve until the process is interrupted."""
        try:
            self._server.run()
        finally:
            self._server.close()

    def start(self) -> None:
        """Serve in a thread."""
        self._thread = threading.Thread(target=self._serve, name="pages", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._server.run()
        except OSError:  # its socket was closed by stop()
            return

    def stop(self) -> None:
        """Stop serving; downloads that are interrupted can be resumed."""
        self._server.close()
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.task_dispatcher.shutdown(timeout=1)
        if self._thread:
            self._thread.join(timeout=5)
