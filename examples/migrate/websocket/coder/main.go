// Command coder echoes over WebSockets of github.com/coder/websocket, and says
// 1001 (going away) to each client when it stops.
package main

import (
	"flag"
	"log"
	"net/http"

	"github.com/coder/websocket"

	"lastcall/actors"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to serve")
	flag.Parse()
	if err := actors.ListenAndServe(&http.Server{Addr: *addr, Handler: http.HandlerFunc(echo)}); err != nil {
		log.Fatal(err)
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	ws, err := websocket.Accept(w, r, nil)
	if err != nil {
		return // Accept has answered
	}
	defer ws.CloseNow()
	// Close sends 1001 between two messages and waits for the client's answer.
	defer actors.StopOf(r.Context()).OnDraining(func() { ws.Close(websocket.StatusGoingAway, "") })()
	for {
		kind, message, err := ws.Read(r.Context())
		if err != nil || ws.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}
