System.Console.WriteLine("repeng-native");
