"""What is wrong around the server?"""
