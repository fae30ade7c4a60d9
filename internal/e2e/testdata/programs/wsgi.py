# A WSGI application.
import time


def application(environ, start_response):
    headers = [("X-Request-Id", environ.get("HTTP_X_REQUEST_ID", ""))]
    if environ["PATH_INFO"] == "/events":
        start_response("200 OK", headers + [("Content-Type", "text/event-stream")])
        return events()
    environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/slow":
        time.sleep(2)
    start_response("200 OK", headers + [("Content-Type", "text/plain"), ("Content-Length", "5")])
    return [b"done\n"]


def events():
    while True:
        yield b"data: tick\n\n"
        time.sleep(0.02)
