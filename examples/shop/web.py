"""The web program: counts its visitors in PostgreSQL."""

import http.server
import time

import psycopg2


def connect():
    """The database may still be starting; half a minute is plenty."""
    for attempt in range(300):
        try:
            connection = psycopg2.connect(host="db", user="postgres", connect_timeout=2)
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("CREATE TABLE IF NOT EXISTS visits (at timestamptz DEFAULT now())")
            return connection
        except psycopg2.OperationalError:
            if attempt == 299:
                raise
            time.sleep(0.1)


class Page(http.server.BaseHTTPRequestHandler):
    """One page: how many came before."""

    def do_GET(self):
        with self.server.database.cursor() as cursor:
            cursor.execute("INSERT INTO visits DEFAULT VALUES")
            cursor.execute("SELECT count(*) FROM visits")
            (count,) = cursor.fetchone()
        body = f"<h1>berth</h1><p>You are visitor number {count}.</p>\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("0.0.0.0", 8000), Page)
server.database = connect()
server.serve_forever()
