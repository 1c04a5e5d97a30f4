"""Which namespaces exist, who may enter, and why is one unknown?"""
