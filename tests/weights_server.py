"""A server of one file that misbehaves before it sends it."""

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def misbehaving_server():
    """Serve ``body``; break off, stall and lie about the length first, as ``moods`` name it."""

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            served = self.server
            served.requests.append((self.path, self.headers.get("Range")))
            body, mood = served.body, served.moods.pop(0) if served.moods else "whole"
            start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("ETag", '"one"')
            self.send_header("Content-Length", str(len(body) - start + (1000 if mood == "lie" else 0)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            if mood in ("break", "stall"):
                self.wfile.write(body[start : start + (len(body) - start) // 2])
                self.wfile.flush()
                if mood == "stall":
                    served.over.wait(2)
            else:
                self.wfile.write(body[start:])
            self.close_connection = True

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    httpd.address = f"http://127.0.0.1:{httpd.server_address[1]}/small.pth"
    httpd.requests, httpd.moods, httpd.body, httpd.over = [], [], b"", threading.Event()
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.over.set()
    httpd.shutdown()
