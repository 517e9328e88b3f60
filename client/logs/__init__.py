"""The logs of builds, made safe to show, followed live and compared."""
