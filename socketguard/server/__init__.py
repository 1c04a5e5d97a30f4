"""The only code that touches ASGI, Engine.IO and python-socketio."""
